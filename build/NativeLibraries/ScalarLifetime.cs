using Mono.Cecil;
using Mono.Cecil.Cil;
using Mono.Cecil.Rocks;

namespace Espalier.Build;

/// <summary>
/// Keeps TorchSharp's scalars alive while a native call uses them.
/// </summary>
/// <remarks>
/// <c>tensor.mul(0.5)</c> makes a temporary <c>Scalar</c>, reads its native handle and calls libtorch. From then on nothing
/// refers to the object, so a garbage collection on another thread may finalise it and free the handle while libtorch still
/// reads it; the process then dies with "Expected false to be true" or a segmentation fault (seen while pruning a model of
/// 1.1 billion parameters). Every scalar is therefore noted in a ring of its thread when it is made: a call uses only the last
/// few scalars of its own thread, so the last 64 are more than any call can need, and memory stays bounded.
/// </remarks>
internal static class ScalarLifetime
{
    private const int Ring = 64;

    /// <summary>Writes the library with the ring added; answers false, having copied it unchanged, where it does not look as expected.</summary>
    public static bool Write(string library, string target)
    {
        using AssemblyDefinition assembly = AssemblyDefinition.ReadAssembly(library);
        ModuleDefinition module = assembly.MainModule;
        TypeDefinition? scalar = module.GetType("TorchSharp.Scalar");
        MethodDefinition? constructor = scalar?.Methods.SingleOrDefault(m => m.IsConstructor && !m.IsStatic && m.Parameters.Count == 1);
        if (scalar is null || constructor is null || scalar.Methods.All(m => m.Name != "Finalize"))
        {
            File.Copy(library, target, overwrite: true);
            return false;
        }

        TypeReference threadStatic = new TypeReference("System", nameof(ThreadStaticAttribute), module, module.TypeSystem.CoreLibrary);
        var marker = new MethodReference(".ctor", module.TypeSystem.Void, threadStatic) { HasThis = true };
        FieldDefinition ring = ThreadField("recent", new ArrayType(scalar));
        FieldDefinition next = ThreadField("next", module.TypeSystem.Int32);

        // recent ??= new Scalar[Ring]; recent[next = (next + 1) & (Ring - 1)] = this;
        ILProcessor il = constructor.Body.GetILProcessor();
        foreach (Instruction end in constructor.Body.Instructions.Where(i => i.OpCode == OpCodes.Ret).ToList())
        {
            Instruction store = il.Create(OpCodes.Ldsfld, ring);
            Instruction[] inserted =
            [
                il.Create(OpCodes.Ldsfld, ring),
                il.Create(OpCodes.Brtrue_S, store),
                il.Create(OpCodes.Ldc_I4, Ring),
                il.Create(OpCodes.Newarr, scalar),
                il.Create(OpCodes.Stsfld, ring),
                store,
                il.Create(OpCodes.Ldsfld, next),
                il.Create(OpCodes.Ldc_I4_1),
                il.Create(OpCodes.Add),
                il.Create(OpCodes.Ldc_I4, Ring - 1),
                il.Create(OpCodes.And),
                il.Create(OpCodes.Dup),
                il.Create(OpCodes.Stsfld, next),
                il.Create(OpCodes.Ldarg_0),
                il.Create(OpCodes.Stelem_Ref),
            ];
            foreach (Instruction instruction in inserted)
            {
                il.InsertBefore(end, instruction);
            }
        }

        constructor.Body.OptimizeMacros();
        assembly.Write(target);
        return true;

        FieldDefinition ThreadField(string name, TypeReference type)
        {
            var field = new FieldDefinition(name, FieldAttributes.Private | FieldAttributes.Static, type);
            field.CustomAttributes.Add(new CustomAttribute(marker));
            scalar.Fields.Add(field);
            return field;
        }
    }
}
