"""What people see and do, once, for the command line and the web page."""
