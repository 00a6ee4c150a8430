"""Steering inside other people's loops. Each module stands for one of them, and needs nothing but that one."""
