"""What Lambda and the operating system do to the process."""
