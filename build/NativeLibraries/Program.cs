using Espalier.Build;

// Lays one folder of native libraries that every project of the house runs from:
//   nativelibraries LIBTORCH_FOLDER TORCHSHARP_FOLDER OUTPUT_FOLDER
// libtorch's files are linked (copied where links are not allowed), TorchSharp's own library is copied and,
// where it asks for a newer libstdc++ than it needs, relieved of that import (see ElfImports).
if (args.Length != 3)
{
    Console.Error.WriteLine("usage: nativelibraries LIBTORCH_FOLDER TORCHSHARP_FOLDER OUTPUT_FOLDER");
    return 2;
}

var (libtorch, torchSharp, output) = (args[0], args[1], args[2]);
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

foreach (string file in Directory.GetFiles(torchSharp))
{
    byte[] image = File.ReadAllBytes(file);
    if (file.EndsWith(".so", StringComparison.Ordinal))
    {
        ElfImports? elf = ElfImports.TryRead(image);
        if (elf is null)
        {
            Console.WriteLine($"warning : {file} is not an ELF64 library with the expected sections; it is used as it is.");
        }
        else if (elf.NeedsNewerLibrary && !elf.DropNewerLibrary())
        {
            Console.WriteLine($"warning : {file} asks for a newer libstdc++ in a way this step does not know; it is used as it is.");
        }
    }

    string target = Path.Combine(output, Path.GetFileName(file)), temporary = target + ".tmp";
    File.WriteAllBytes(temporary, image);
    File.Move(temporary, target, overwrite: true);
}

File.WriteAllText(Path.Combine(output, "libraries.stamp"), $"{libtorch}\n{torchSharp}\n");
return 0;
