using System.Text.Json;
using Espalier.Build;

// Lays one folder of native libraries that every project of the house runs from:
//   nativelibraries LIBTORCH_FOLDER TORCHSHARP_FOLDER TORCHSHARP_DLL OUTPUT_FOLDER
// libtorch's files are linked (copied where links are not allowed), TorchSharp's own library is copied and,
// where it asks for a newer libstdc++ than it needs, relieved of that import (see ElfImports).
// TorchSharp.dll is copied with its scalars kept alive during native calls (see ScalarLifetime) and native shells that go with their modules (see ModuleShells).
// What was done to each file is written to libraries.json, which `espalier doctor` reads.
if (args.Length != 4)
{
    Console.Error.WriteLine("usage: nativelibraries LIBTORCH_FOLDER TORCHSHARP_FOLDER TORCHSHARP_DLL OUTPUT_FOLDER");
    return 2;
}

var (libtorch, torchSharp, managed, output) = (args[0], args[1], args[2], args[3]);
string[] unused = ["torch_python", "torchbind_test", "jitbackend_test", "backend_with_compiler", "nnapi_backend", "aoti_custom_ops", "libshm"];
Directory.CreateDirectory(output);
foreach (string file in Directory.GetFiles(libtorch).Where(f => !unused.Any(f.Contains)))
{
    string target = Path.Combine(output, Path.GetFileName(file));
    File.Delete(target);
    try
    {
        File.CreateSymbolicLink(target, file);
    }
    catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
    {
        File.Copy(file, target);
    }
}

var done = new List<object>();
foreach (string file in Directory.GetFiles(torchSharp))
{
    byte[] image = File.ReadAllBytes(file);
    string change = "none: the file asks for nothing that older systems lack";
    if (file.EndsWith(".so", StringComparison.Ordinal))
    {
        ElfImports? elf = ElfImports.TryRead(image);
        if (elf is null)
        {
            change = "none: not an ELF64 library with the expected sections";
            Console.WriteLine($"warning : {file} is not an ELF64 library with the expected sections; it is used as it is.");
        }
        else if (elf.NeedsNewerLibrary && elf.DropNewerLibrary())
        {
            change = "dropped the import _ZSt21ios_base_library_initv@GLIBCXX_3.4.32; the file now loads with GLIBCXX_3.4.30";
        }
        else if (elf.NeedsNewerLibrary)
        {
            change = "failed: the import _ZSt21ios_base_library_initv@GLIBCXX_3.4.32 is there in an unknown form";
            Console.WriteLine($"warning : {file} asks for a newer libstdc++ in a way this step does not know; it is used as it is.");
        }
    }

    string target = Path.Combine(output, Path.GetFileName(file)), temporary = target + ".tmp";
    File.WriteAllBytes(temporary, image);
    File.Move(temporary, target, overwrite: true);
    done.Add(new { file = Path.GetFileName(file), change });
}

{
    string target = Path.Combine(output, Path.GetFileName(managed)), first = target + ".first", second = target + ".second";
    List<string> changes = [];
    Note(ScalarLifetime.Write(managed, first), "scalars stay alive while native calls use them", "its scalars may be freed while they are in use");
    Note(ModuleShells.Write(first, second), "native shells of modules go with them", "every module leaves a little memory behind");
    File.Delete(first);
    File.Move(second, target, overwrite: true);
    done.Add(new { file = Path.GetFileName(managed), change = string.Join("; ", changes) });

    void Note(bool made, string change, string otherwise)
    {
        changes.Add(made ? change : $"failed: it does not look as expected, so {otherwise}");
        if (!made)
        {
            Console.WriteLine($"warning : {managed} does not look as this step expects; {otherwise}.");
        }
    }
}

// A package's folder ends in NAME/VERSION/runtimes/RID/native.
static string VersionOf(string folder) =>
    new DirectoryInfo(folder).Parent?.Parent?.Parent?.Name ?? "unknown";

File.WriteAllText(Path.Combine(output, "libraries.json"), JsonSerializer.Serialize(
    new { libtorch = VersionOf(libtorch), torchSharp = VersionOf(torchSharp), platform = Path.GetFileName(output.TrimEnd('/', '\\')), libraries = done },
    new JsonSerializerOptions { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n");

File.WriteAllText(Path.Combine(output, "libraries.stamp"), $"{libtorch}\n{torchSharp}\n");
return 0;
