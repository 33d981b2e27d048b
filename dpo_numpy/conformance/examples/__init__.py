"""One function for each seam, to start from: `dpo-numpy verify dpo_numpy.conformance.examples.pair:dpo --beta 0.1`"""
