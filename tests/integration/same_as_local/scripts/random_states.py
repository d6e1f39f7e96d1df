import random, uuid, secrets, os, tempfile
x = random.random()
print(0 <= x < 1, uuid.uuid4().version, len(secrets.token_hex(4)), len(os.urandom(3)))
random.seed(5)
print(random.random(), random.randint(1, 100), random.sample(range(100), 3))
