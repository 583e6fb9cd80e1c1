"""Attacks on everything that is stored: files damaged, processes killed, disks that fail.

`make attack` carries all of it out and prints tables; the tests take a sample.
"""
