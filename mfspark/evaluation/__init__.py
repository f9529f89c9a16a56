"""How good the predictions are: error by slice with intervals, against simple baselines."""
