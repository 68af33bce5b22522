"""Names of the files in a run's folder."""

CONFIG_FILE = "config.json"
METRICS_FILE, METRICS_CSV_FILE = "metrics.jsonl", "metrics.csv"
LOCK_FILE = "run.lock"
CHECKPOINT_FOLDER = "checkpoints"
BEST_FILE, PRETRAINED_FILE = "best.pt", "pretrained.pt"
# the policy of --jump_start_guide, exported
GUIDE_FOLDER = "guide"
TENSORBOARD_FOLDER, VIDEO_FOLDER = "tensorboard", "videos"
DIVERGENCE_FILE = "divergence.json"
# written by scripts/sweep.py before and during a run
STATUS_FILE, OUTPUT_FILE, SWEEP_LOCK_FILE = "status.json", "output.log", "sweep.lock"
SWEEP_FILES = (STATUS_FILE, OUTPUT_FILE, SWEEP_LOCK_FILE)
