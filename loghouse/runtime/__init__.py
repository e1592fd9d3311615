"""What knows loops, threads and sockets, and nothing of logs."""
