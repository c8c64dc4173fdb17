"""Probing experiments: why does it work (paper section 5.4)?"""


