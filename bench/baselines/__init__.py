"""What people would use in the bridge's place, written as well as its kind allows."""
