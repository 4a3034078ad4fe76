"""What each kind of receiver takes, and how it says that it did not."""
