"""What happens around training: they know Lightning and `zoo.base`, and no method."""
