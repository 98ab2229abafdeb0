using System.Buffers.Binary;
using System.Text;

namespace Espalier.Build;

/// <summary>
/// The dynamic-linking tables of an ELF64 little-endian shared library, opened for one small change:
/// dropping the import that ties TorchSharp's library to GCC 13's libstdc++.
/// </summary>
/// <remarks>
/// GCC 13 emits a reference to <c>_ZSt21ios_base_library_initv@GLIBCXX_3.4.32</c> for every file that includes
/// &lt;iostream&gt;. Older libstdc++ initialise the streams in each translation unit, so nothing needs to be called:
/// the symbol is re-pointed at libc's <c>rand</c> (a no-argument function whose name already ends a string of the
/// table), its version at "global", and the version requirement at one that the older library offers.
/// Undefined symbols are not part of the GNU hash table, so nothing else in the file depends on these fields.
/// </remarks>
internal sealed class ElfImports
{
    private const string InitSymbol = "_ZSt21ios_base_library_initv";
    private const string TooNew = "GLIBCXX_3.4.32";
    private const string Offered = "GLIBCXX_3.4.30";
    private const string Substitute = "rand";
    private const int SymbolSize = 24;

    private readonly byte[] _image;
    private readonly Dictionary<string, (int Offset, int Size)> _sections = new(StringComparer.Ordinal);

    private ElfImports(byte[] image) => _image = image;

    /// <summary>Reads the section table; answers null where the file is not ELF64 little endian.</summary>
    public static ElfImports? TryRead(byte[] image)
    {
        if (image.Length < 64 || image[0] != 0x7F || image[1] != 'E' || image[2] != 'L' || image[3] != 'F'
            || image[4] != 2 || image[5] != 1)
        {
            return null;
        }

        var elf = new ElfImports(image);
        long sectionTable = elf.Int64(0x28);
        int entrySize = elf.UInt16(0x3A), count = elf.UInt16(0x3C), namesIndex = elf.UInt16(0x3E);
        if (sectionTable <= 0 || entrySize != 64 || sectionTable + ((long)count * entrySize) > image.Length || namesIndex >= count)
        {
            return null;
        }

        int Header(int i) => (int)sectionTable + (i * entrySize);
        int names = (int)elf.Int64(Header(namesIndex) + 0x18);
        for (int i = 0; i < count; i++)
        {
            long offset = elf.Int64(Header(i) + 0x18), size = elf.Int64(Header(i) + 0x20);
            bool occupiesFile = elf.Int32(Header(i) + 4) != 8; // SHT_NOBITS
            if (occupiesFile && offset >= 0 && size >= 0 && offset + size <= image.Length)
            {
                elf._sections[elf.Text(names + elf.Int32(Header(i)))] = ((int)offset, (int)size);
            }
        }

        return new[] { ".dynsym", ".dynstr", ".gnu.version", ".gnu.version_r" }.All(elf._sections.ContainsKey) ? elf : null;
    }

    /// <summary>Whether the import that older systems lack is there.</summary>
    public bool NeedsNewerLibrary => FindInitSymbol() is not null;

    /// <summary>Drops the import. Answers false, with the image untouched, where a part it relies on is missing.</summary>
    public bool DropNewerLibrary()
    {
        int? symbol = FindInitSymbol();
        int? substitute = FindStringTail(Substitute);
        (int tooNew, int offered)? versions = FindVersions();
        if (symbol is null || substitute is null || versions is null)
        {
            return false;
        }

        var (symbols, _) = _sections[".dynsym"];
        var (symbolVersions, _) = _sections[".gnu.version"];
        Write32(symbols + (symbol.Value * SymbolSize), (uint)substitute.Value);   // st_name
        BinaryPrimitives.WriteUInt16LittleEndian(_image.AsSpan(symbolVersions + (symbol.Value * 2)), 1); // VER_NDX_GLOBAL

        // vernaux: hash, flags, other, name, next. Hash and name move to the version that is offered.
        var (newEntry, oldEntry) = versions.Value;
        Write32(newEntry, (uint)Int32(oldEntry));
        Write32(newEntry + 8, (uint)Int32(oldEntry + 8));
        return true;
    }

    private int? FindInitSymbol()
    {
        var (offset, size) = _sections[".dynsym"];
        var (strings, _) = _sections[".dynstr"];
        for (int i = 0; i < size / SymbolSize; i++)
        {
            int entry = offset + (i * SymbolSize);
            bool undefined = UInt16(entry + 6) == 0;
            if (undefined && Text(strings + Int32(entry)) == InitSymbol)
            {
                return i;
            }
        }

        return null;
    }

    private int? FindStringTail(string text)
    {
        var (offset, size) = _sections[".dynstr"];
        int at = _image.AsSpan(offset, size).IndexOf(Encoding.ASCII.GetBytes(text + "\0"));
        return at < 0 ? null : at;
    }

    private (int TooNew, int Offered)? FindVersions()
    {
        var (offset, size) = _sections[".gnu.version_r"];
        var (strings, _) = _sections[".dynstr"];
        int? tooNew = null, offered = null;
        for (int need = offset; need < offset + size;)
        {
            int count = UInt16(need + 2), aux = need + Int32(need + 8), next = Int32(need + 12);
            for (int i = 0; i < count && aux + 16 <= offset + size; i++)
            {
                string version = Text(strings + Int32(aux + 8));
                tooNew = version == TooNew ? aux : tooNew;
                offered = version == Offered ? aux : offered;
                aux += Int32(aux + 12);
            }

            if (next == 0)
            {
                break;
            }

            need += next;
        }

        return tooNew is { } a && offered is { } b ? (a, b) : null;
    }

    private string Text(int at)
    {
        int length = _image.AsSpan(at).IndexOf((byte)0);
        return Encoding.ASCII.GetString(_image, at, Math.Max(length, 0));
    }

    private ushort UInt16(int at) => BinaryPrimitives.ReadUInt16LittleEndian(_image.AsSpan(at));

    private int Int32(int at) => BinaryPrimitives.ReadInt32LittleEndian(_image.AsSpan(at));

    private long Int64(int at) => BinaryPrimitives.ReadInt64LittleEndian(_image.AsSpan(at));

    private void Write32(int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_image.AsSpan(at), value);
}
