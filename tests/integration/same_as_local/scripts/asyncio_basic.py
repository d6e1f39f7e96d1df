import asyncio
async def f(n):
    await asyncio.sleep(0.01 * n)
    return n
async def main():
    print(await asyncio.gather(*(f(n) for n in range(4))))
    async with asyncio.TaskGroup() as g:
        t = g.create_task(f(1))
    print(t.result())
asyncio.run(main())
