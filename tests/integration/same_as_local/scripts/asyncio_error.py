import asyncio
async def main():
    raise ValueError("inside")
asyncio.run(main())
