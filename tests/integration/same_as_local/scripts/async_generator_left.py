import asyncio
async def g():
    try:
        yield 1
    finally:
        print("async closed")
async def main():
    async for x in g():
        break
    print("broke")
asyncio.run(main())
