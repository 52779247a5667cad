"""The format of what a worker's code records of a run and reads again when it takes the run on.

Raise it with any change that older code could not go on from: a new kind of event that decides something, another
meaning of a step, a call or a message. Code reads every older format. During a deploy both versions work side by side;
after a deploy was taken back, runs that the newer code has worked on wait for it until their deadline.
"""

CODE_FORMAT = 1
