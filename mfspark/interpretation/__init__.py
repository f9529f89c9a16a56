"""What the model has learnt: factors, biases, neighbours, and single predictions taken apart."""
