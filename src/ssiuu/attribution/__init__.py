"""Attribution of neurons: how much each one pushes an answer up or down."""
