"""The D4RL benchmark environments on modern MuJoCo with the old dynamics."""
