from concurrent.futures import ProcessPoolExecutor
import math
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(list(pool.map(math.factorial, range(10))))
