"""What vectors are worth: published and own tasks, solved by small heads on frozen features, beside baselines."""
