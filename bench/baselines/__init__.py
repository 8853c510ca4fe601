"""What people would use in place of the bridge, each program as good as its kind allows."""
