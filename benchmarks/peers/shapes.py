"""The shapes of the transformer whose parameters are drawn: its dense layers, without attention.

Every peer computes the same forward, since some libraries run it to find the shapes:

    h = norm1(x);  x = x + output(query(h) * key(h) + value(h));  x = x + down(relu(up(norm2(x))))
"""

BLOCKS = 12
WIDTH = 256
HIDDEN = 1024
WORDS = 1000
TOKENS = (1, 8)
