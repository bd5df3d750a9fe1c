"""Full ImageNet: the papers' recipes as files, training and evaluation on any number of processes and machines."""
