"""Tests with real guests under real KVM."""
