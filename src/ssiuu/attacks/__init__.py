"""Attacks: what brings a forgotten fact back?"""
