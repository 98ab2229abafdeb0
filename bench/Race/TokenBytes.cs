using System.Buffers.Binary;
using System.Text.Json;
using Espalier.Checkpoints.Gguf;

namespace Espalier.Race;

/// <summary>The bytes that one token reads of a model: all that is stored of its weights, the head included, but not the table of tokens,
/// of which it reads one row. Where the table is the head too, it counts.</summary>
internal static class TokenBytes
{
    /// <param name="path">A GGUF file, or a folder with a packed model in one file; for a dense folder, what float32 in memory takes.</param>
    public static long Of(string path) => path.EndsWith(GgufFile.Extension, StringComparison.Ordinal) ? OfGguf(path) : OfFolder(Path.Combine(path, "model.safetensors"));

    private static long OfGguf(string path)
    {
        using GgufFile file = GgufFile.Open(path);
        return Sum(file.Names.Select(n => (n, file.Tensor(n).ByteCount)), "token_embd.", "output.");
    }

    private static long OfFolder(string path)
    {
        using FileStream stream = File.OpenRead(path);
        Span<byte> length = stackalloc byte[8];
        stream.ReadExactly(length);
        byte[] head = new byte[BinaryPrimitives.ReadInt64LittleEndian(length)];
        stream.ReadExactly(head);
        using JsonDocument document = JsonDocument.Parse(head);
        JsonElement metadata = document.RootElement.GetProperty("__metadata__");
        bool packed = metadata.TryGetProperty("format", out JsonElement format) && format.GetString()!.StartsWith("espalier-packed", StringComparison.Ordinal);
        return Sum(document.RootElement.EnumerateObject().Where(t => t.Name != "__metadata__").Select(t => (t.Name, Stored(t.Value) * (packed ? 1 : 2))), "model.embed_tokens.", "lm_head.");
    }

    // bfloat16 in a dense file, float32 once it is loaded: twice as much.
    private static long Stored(JsonElement tensor)
    {
        JsonElement offsets = tensor.GetProperty("data_offsets");
        return offsets[1].GetInt64() - offsets[0].GetInt64();
    }

    private static long Sum(IEnumerable<(string Name, long Bytes)> tensors, string table, string head)
    {
        (string Name, long Bytes)[] all = [.. tensors];
        bool apart = all.Any(t => t.Name.StartsWith(head, StringComparison.Ordinal));
        return all.Where(t => !apart || !t.Name.StartsWith(table, StringComparison.Ordinal)).Sum(t => t.Bytes);
    }
}
