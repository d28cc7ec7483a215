"""The digital twin: what every choice would give, where the device stands, which choices cannot
win.
"""
