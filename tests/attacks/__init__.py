"""What hostile peers do, frame by frame, over real sockets: each limit ends it, and others are served meanwhile."""
