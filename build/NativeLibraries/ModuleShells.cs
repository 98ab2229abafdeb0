using Mono.Cecil;
using Mono.Cecil.Cil;
using Mono.Cecil.Rocks;

namespace Espalier.Build;

/// <summary>
/// Lets the native half of a module that is written in C# go when the module is disposed.
/// </summary>
/// <remarks>
/// Every <c>nn.Module</c> has a shell in libtorch. When TorchSharp makes one it asks for a second, boxed reference to it (for native containers,
/// which nothing here uses) through a shared pointer that it never deletes, so the shell stays for ever: a fifth of a kibibyte per layer, which
/// a thousand runs of a tiny model showed as memory that rises (bench/MemorySlope). The native function leaves the second reference out where
/// no place for it is given; that is what the constructor says now.
/// </remarks>
internal static class ModuleShells
{
    /// <summary>Writes the library with the constructor changed; answers false, having copied it unchanged, where it does not look as expected.</summary>
    public static bool Write(string library, string target)
    {
        using AssemblyDefinition assembly = AssemblyDefinition.ReadAssembly(library);
        TypeDefinition? type = assembly.MainModule.GetType("TorchSharp.torch")?.NestedTypes.SingleOrDefault(t => t.Name == "nn")?.NestedTypes.SingleOrDefault(t => t.Name == "Module");
        MethodDefinition? constructor = type?.Methods.SingleOrDefault(m => m.IsConstructor && !m.IsStatic && m.Parameters.Count == 1 && m.Parameters[0].ParameterType.FullName == "System.String");
        Instruction? call = constructor?.Body.Instructions.SingleOrDefault(i => i.OpCode == OpCodes.Call && i.Operand is MethodReference { Name: "THSNN_custom_module" });
        if (constructor is null || call is null || call.Previous.OpCode != OpCodes.Ldloca_S && call.Previous.OpCode != OpCodes.Ldloca)
        {
            File.Copy(library, target, overwrite: true);
            return false;
        }

        constructor.Body.SimplifyMacros();
        constructor.Body.InitLocals = true; // the place stays 0: no boxed module
        ILProcessor il = constructor.Body.GetILProcessor();
        il.Replace(call.Previous, il.Create(OpCodes.Ldc_I4_0));
        il.InsertBefore(call, il.Create(OpCodes.Conv_U));
        constructor.Body.OptimizeMacros();
        assembly.Write(target);
        return true;
    }
}
