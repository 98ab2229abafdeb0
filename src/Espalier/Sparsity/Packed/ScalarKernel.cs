using System.Numerics;

namespace Espalier.Sparsity.Packed;

/// <summary>Plain code for every code and type: what the others are measured against, and what runs where there are no vector instructions for them.</summary>
internal sealed unsafe class ScalarKernel(MatrixCode code, PackedType type) : PairKernel
{
    private readonly MatrixCode code = code;
    private readonly PackedType type = type;

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead) =>
        (One(first, x.Blocks * RowCodec.Block, x, 0), One(second, x.Blocks * RowCodec.Block, x, 0));

    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        for (int c = 0; c < 4; c++)
        {
            products[c] = One(row, columns, x, from + c);
        }
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + RowCodec.HeaderBytes(code, type, blocks * RowCodec.Block);
        int scaleCount = RowCodec.ScaleCount(code, type);
        ushort* scales = (ushort*)(row + blocks * (long)RowCodec.PlaceBytes(code));
        for (int b = 0; b < blocks; b++, scales += scaleCount)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            new Span<float>(block, RowCodec.Block).Clear();
            ulong mask = RowCodec.Mask(code, row, b);
            int count = BitOperations.PopCount(mask);
            for (int i = 0; i < count; i++, mask &= mask - 1)
            {
                block[BitOperations.TrailingZeroCount(mask)] =
                    RowCodec.Value(code, type, values, i) * (scaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[i * scaleCount / RowCodec.Block]));
            }

            values += RowCodec.ValueBytes(type, count);
        }
    }

    private float One(byte* row, int columns, PackedInput x, int vector) => type switch
    {
        PackedType.Float32 => Sum<PlainInput, Floats>(row, columns, x, vector),
        PackedType.BFloat16 => Sum<SplitInput, BFloats>(row, columns, x, vector),
        PackedType.Float16 => Sum<SplitInput, Halves>(row, columns, x, vector),
        PackedType.Int8 => Sum<CodeInput, Bytes>(row, columns, x, vector),
        _ => code switch
        {
            MatrixCode.Bitmask => Sum<CodeInput, Neighbours>(row, columns, x, vector),
            MatrixCode.Dense => Sum<CodeInput, DenseNibbles>(row, columns, x, vector),
            _ => Sum<CodeInput, GroupNibbles>(row, columns, x, vector),
        },
    };

    private float Sum<TInput, TValues>(byte* row, int columns, PackedInput x, int vector)
        where TInput : struct, IInput
        where TValues : struct, IValues
    {
        byte* values = row + RowCodec.HeaderBytes(code, type, columns);
        int scaleCount = RowCodec.ScaleCount(code, type), blocks = x.Blocks;
        bool integers = PackedTypes.IsInteger(type);
        ushort* scales = (ushort*)(row + blocks * (long)RowCodec.PlaceBytes(code));
        double sum = 0;
        for (int b = 0; b < blocks; b++, scales += scaleCount)
        {
            long at = (vector * (long)blocks + b) * RowCodec.Block;
            ulong mask = RowCodec.Mask(code, row, b);
            int count = BitOperations.PopCount(mask), part = scaleCount == 2 ? RowCodec.Block / 2 : Math.Max(1, count);
            for (int from = 0; from < count; from += part)
            {
                double dot = 0;
                for (int i = from; i < from + part; i++, mask &= mask - 1)
                {
                    dot += TValues.Get(values, i) * (double)TInput.Get(x, at, BitOperations.TrailingZeroCount(mask));
                }

                double scale = integers ? x.Scales[vector * (long)blocks + b] : 1;
                sum += dot * (scaleCount == 0 ? scale : scale * Quantiser.FromBFloat16(scales[from / 32]));
            }

            values += RowCodec.ValueBytes(type, count);
        }

        return (float)sum;
    }

    private interface IInput
    {
        /// <summary>The input of a column of the block whose inputs begin at an index.</summary>
        static abstract float Get(PackedInput x, long at, int column);
    }

    private interface IValues
    {
        /// <summary>The i-th value of a block, without its scale.</summary>
        static abstract float Get(byte* values, int i);
    }

    private readonly struct PlainInput : IInput
    {
        public static float Get(PackedInput x, long at, int column) => x.Values[at + column];
    }

    private readonly struct SplitInput : IInput
    {
        public static float Get(PackedInput x, long at, int column) => x.Values[at + (column & 1) * 32 + (column >> 1)];
    }

    private readonly struct CodeInput : IInput
    {
        public static float Get(PackedInput x, long at, int column) => x.Codes[at + column];
    }

    private readonly struct Floats : IValues
    {
        public static float Get(byte* values, int i) => ((float*)values)[i];
    }

    private readonly struct BFloats : IValues
    {
        public static float Get(byte* values, int i) => Quantiser.FromBFloat16(((ushort*)values)[i]);
    }

    private readonly struct Halves : IValues
    {
        public static float Get(byte* values, int i) => (float)((Half*)values)[i];
    }

    private readonly struct Bytes : IValues
    {
        public static float Get(byte* values, int i) => (sbyte)values[i];
    }

    private readonly struct Neighbours : IValues
    {
        public static float Get(byte* values, int i) => (sbyte)(values[i >> 1] >> ((i & 1) * 4) << 4) >> 4;
    }

    private readonly struct DenseNibbles : IValues
    {
        public static float Get(byte* values, int i) => (sbyte)(values[i & 31] >> (i >> 5) * 4 << 4) >> 4;
    }

    private readonly struct GroupNibbles : IValues
    {
        public static float Get(byte* values, int i) => (sbyte)(values[i & 15] >> (i >> 4) * 4 << 4) >> 4;
    }
}
