"""The small world: scenes of plain shapes with exact ground truth, for training and measuring at any size."""
