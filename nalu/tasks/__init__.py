"""What is to be learned: samples and targets."""
