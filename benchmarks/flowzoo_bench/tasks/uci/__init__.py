"""The UCI tables of Papamakarios, Pavlakou, Murray (2017), with that paper's preprocessing."""
