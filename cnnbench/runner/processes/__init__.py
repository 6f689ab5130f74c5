"""Multi-process training of one network: launcher, leader and followers."""
