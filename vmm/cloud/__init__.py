"""What a cloud image brings, and wants: its own kernel, and a seed for cloud-init."""
