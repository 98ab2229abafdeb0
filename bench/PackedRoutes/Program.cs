using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Espalier.PackedRoutes;

// Weights per second of each route on one thread, best of many short runs: in cache (256 rows) and from memory. "kernels": only what is built in; "kernels avx2 memory": of one set, from memory too; "kernels avx2 memory bf16": of one type.
if (args is ["check"])
{
    return Check.Run() == 0 ? 0 : 1;
}

if (args is ["prompts"])
{
    Kernels.Prompts();
    return 0;
}

if (args is ["kernels", ..])
{
    Kernels.Measure(args.ElementAtOrDefault(1), args.Contains("memory"), args.ElementAtOrDefault(3));
    return 0;
}

unsafe
{
    const int columns = 2048, blocks = columns / 64;
    float* x = (float*)NativeMemory.AlignedAlloc(columns * 8, 64);
    new Span<float>(x, columns * 2).Fill(0.001f);
    Console.WriteLine($"AVX2 {Avx2.IsSupported}, AVX-512 VBMI2 {Avx512Vbmi2.IsSupported}, AVX-VNNI {AvxVnni.IsSupported}; {columns} columns, half of them kept, Gweights/s on one thread");
    (string Name, double Bytes, bool Blockwise, nint Route)[] routes =
    [
        ("bf16 plain, masks first", 2, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Bf16Naive),
        ("bf16 AVX2 pshufb, masks first", 2, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Bf16Avx2),
        ("bf16 AVX-512 expand from memory", 2, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Bf16ExpandLoad),
        ("bf16 AVX-512 expand, masks first", 2, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Bf16Expand),
        ("bf16 AVX-512 expand, block by block", 2, true, (nint)(delegate*<byte*, int, float*, float>)&Routes.Bf16ExpandBlocks),
        ("int8 AVX2 route A", 1, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Int8Avx2),
        ("int8 AVX-512 expand", 1, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Int8Expand),
        ("int4 AVX2 route B (pdep)", 0.5, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Int4Pdep),
        ("int4 AVX2 bytes, then route A", 0.5, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Int4Unpacked),
        ("int4 AVX-512 expand", 0.5, false, (nint)(delegate*<byte*, int, float*, float>)&Routes.Int4Expand),
    ];
    foreach (var (name, size, blockwise, address) in routes)
    {
        if (name.Contains("512") && !Avx512Vbmi2.IsSupported)
        {
            continue;
        }

        var route = (delegate*<byte*, int, float*, float>)address;
        double[] best = [0, 0];
        for (int where = 0; where < 2; where++)
        {
            int rows = where == 0 ? 256 : 65536;
            int length = blocks * 8 + (size == 0.5 ? blocks * 2 : 0) + (int)(columns / 2 * size);
            byte* data = (byte*)NativeMemory.AlignedAlloc((nuint)((long)rows * length + 64), 64);
            Fill(data, rows, length, size, blockwise);
            float sum = 0;
            for (int run = 0; run < (where == 0 ? 300 : 5); run++)
            {
                long start = Stopwatch.GetTimestamp();
                for (int r = 0; r < rows; r++)
                {
                    sum += route(data + (long)r * length, blocks, x);
                }

                best[where] = Math.Max(best[where], (double)rows * columns / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
            }

            GC.KeepAlive(sum);
            NativeMemory.AlignedFree(data);
        }

        Console.WriteLine($"{name,-38} in cache {best[0],6:0.0}   from memory {best[1],6:0.0}");
    }

    Kernels.Measure(null, memory: false);
    return 0;

    // Each mask keeps exactly half, so that every row has the same length.
    static void Fill(byte* data, int rows, int length, double size, bool blockwise)
    {
        var random = new Random(0);
        ulong[] masks = new ulong[4096];
        for (int i = 0; i < masks.Length; i++)
        {
            while (BitOperations.PopCount(masks[i]) < 32)
            {
                masks[i] |= 1ul << random.Next(64);
            }
        }

        new Span<byte>(data, length).Fill(0x11);
        for (long r = 0; r < rows; r++)
        {
            byte* row = data + r * length;
            new Span<byte>(row, length).Fill(0x11);
            for (int b = 0; b < blocks; b++)
            {
                *(ulong*)(blockwise ? row + b * (8 + (int)(32 * size)) : row + b * 8) = masks[random.Next(4096)];
            }
        }
    }
}
