using System.Reflection;
using static TorchSharp.torch;

namespace Espalier.Tests.Runtime;

public sealed class ModuleShellsTests
{
    /// <summary>TorchSharp 0.107.0 as published keeps the native shell of every module for ever through its boxed reference (build/NativeLibraries/ModuleShells.cs).</summary>
    [Fact]
    public void A_module_has_no_second_native_reference()
    {
        using var module = new Plain();
        object boxed = Field(typeof(nn.Module), "boxedModule").GetValue(module)!;
        ((System.Runtime.InteropServices.SafeHandle)Field(boxed.GetType(), "handle").GetValue(boxed)!).IsInvalid.ShouldBeTrue();
        using Tensor one = ones(1);
        using Tensor answer = module.call(one);
        answer.item<float>().ShouldBe(2f);

        static FieldInfo Field(Type type, string name) => type.GetField(name, BindingFlags.Instance | BindingFlags.NonPublic).ShouldNotBeNull(name);
    }

    private sealed class Plain() : nn.Module<Tensor, Tensor>("plain")
    {
        public override Tensor forward(Tensor input) => input.add(1);
    }
}
