"""Populations of people with answers: who is met while axes are found, who is new, and what the new ones are asked.

Each module reads one data set and splits it by a seed. ``asked`` has people who are asked questions of a known pool,
``gated`` those who chose themselves what to answer.
"""
