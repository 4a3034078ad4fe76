"""One SSH login to one host: every phase has a deadline, every failure its class. paramiko does the protocol."""
