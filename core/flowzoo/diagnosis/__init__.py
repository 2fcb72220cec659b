"""What ``flowzoo doctor`` looks at."""
