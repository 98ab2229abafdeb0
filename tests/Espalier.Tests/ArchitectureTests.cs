using Mono.Cecil;
using Mono.Cecil.Cil;

namespace Espalier.Tests;

/// <summary>Keeps the floors of the house: a room uses only rooms below it (docs/architecture.md).</summary>
public sealed class ArchitectureTests
{
    /// <summary>From the ground up.</summary>
    private static readonly string[] Floors =
    [
        "Runtime", "Catalogue", "Checkpoints", "Data", "Models", "Verification", "Sparsity", "Training", "Evaluation", "Reporting", "Pruning", "Methods", "Recipes", "Runs", "Studio", "Cli",
    ];

    private static readonly IReadOnlyList<AssemblyDefinition> House =
    [
        .. new[] { typeof(Espalier.Runtime.Seed), typeof(Espalier.Recipes.Recipe), typeof(Espalier.Runs.RunStore), typeof(Espalier.Studio.StudioServer), typeof(Espalier.Cli.EspalierCommandLine) }
            .Select(t => AssemblyDefinition.ReadAssembly(t.Assembly.Location, new ReaderParameters { ReadSymbols = true })),
    ];

    [Fact]
    public void A_room_uses_only_rooms_below_it()
    {
        string[] violations = [.. Types().SelectMany(Uses).Where(u => Floor(u.Used) > Floor(u.User)).Select(u => $"{u.Place}: {u.User} uses {u.Used}").Distinct().Order(StringComparer.Ordinal)];
        Assert.True(violations.Length == 0, "A room may use only rooms below it. Move what is shared down, or give the lower room a contract:\n" + string.Join('\n', violations));
    }

    [Fact]
    public void Every_room_has_its_floor()
    {
        string[] homeless = [.. Types().Select(t => RoomOf(t)).OfType<string>().Distinct().Where(r => !Floors.Contains(r))];
        homeless.ShouldBeEmpty("a room is missing in the list of floors above (and in docs/architecture.md)");
    }

    [Fact]
    public void The_check_sees_uses_in_signatures_and_in_code()
    {
        TypeDefinition command = Types().Single(t => t.Name == "DoctorCommand");
        Uses(command).ShouldContain(u => u.Used == "Cli" && u.User == "Cli");
        TypeDefinition context = Types().Single(t => t.FullName == "Espalier.Cli.Commands.CommandContext");
        var seen = Uses(context).Where(u => u.Used == "Runtime").ToArray();
        seen.ShouldNotBeEmpty();
        seen.ShouldContain(u => u.Place.Contains("CommandContext.cs:", StringComparison.Ordinal));
    }

    [Fact]
    public void Folders_and_namespaces_agree()
    {
        string source = Path.Combine(TestPaths.Repository, "src");
        var wrong = new List<string>();
        foreach (string file in Directory.EnumerateFiles(source, "*.cs", SearchOption.AllDirectories).Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}")))
        {
            string? line = File.ReadLines(file).FirstOrDefault(l => l.StartsWith("namespace ", StringComparison.Ordinal));
            string wanted = Path.GetRelativePath(source, Path.GetDirectoryName(file)!).Replace(Path.DirectorySeparatorChar, '.');
            if (line is not null && line.TrimEnd(';') != $"namespace {wanted}")
            {
                wrong.Add($"{Path.GetRelativePath(TestPaths.Repository, file)} says '{line}', its folder {wanted}");
            }
        }

        wrong.ShouldBeEmpty();
    }

    private sealed record Use(string User, string Used, string Place);

    private static IEnumerable<TypeDefinition> Types() => House.SelectMany(a => a.MainModule.Types).SelectMany(Nested);

    private static IEnumerable<TypeDefinition> Nested(TypeDefinition type) => type.NestedTypes.SelectMany(Nested).Prepend(type);

    private static int Floor(string room) => Array.IndexOf(Floors, room);

    /// <summary>The room of a type: the name after "Espalier."; null for types of others.</summary>
    private static string? RoomOf(TypeReference type)
    {
        TypeReference outermost = type.GetElementType();
        while (outermost.DeclaringType is { } outer)
        {
            outermost = outer;
        }

        string[] names = outermost.Namespace.Split('.');
        return names.Length > 1 && names[0] == "Espalier" ? names[1] : null;
    }

    private static IEnumerable<Use> Uses(TypeDefinition type)
    {
        if (RoomOf(type) is not { } user)
        {
            yield break;
        }

        string home = type.Methods.Where(m => m.HasBody).SelectMany(m => m.DebugInformation.SequencePoints).Select(PlaceOf).FirstOrDefault() ?? type.FullName;
        IEnumerable<TypeReference?> declared =
        [
            type.BaseType, .. type.Interfaces.Select(i => i.InterfaceType), .. type.Fields.Select(f => f.FieldType), .. type.Properties.Select(p => p.PropertyType),
            .. type.CustomAttributes.Concat(type.Methods.SelectMany(m => m.CustomAttributes)).Select(a => a.AttributeType),
        ];
        foreach (Use use in Rooms(declared).Select(used => new Use(user, used, home)))
        {
            yield return use;
        }

        foreach (MethodDefinition method in type.Methods)
        {
            string start = method.HasBody ? method.DebugInformation.SequencePoints.Select(PlaceOf).FirstOrDefault() ?? home : home;
            foreach (string used in Rooms([method.ReturnType, .. method.Parameters.Select(p => p.ParameterType)]))
            {
                yield return new Use(user, used, start);
            }

            if (!method.HasBody)
            {
                continue;
            }

            string place = start;
            foreach (Instruction instruction in method.Body.Instructions)
            {
                if (method.DebugInformation.GetSequencePoint(instruction) is { IsHidden: false } point)
                {
                    place = PlaceOf(point)!;
                }

                foreach (string used in Rooms(OperandTypes(instruction.Operand)))
                {
                    yield return new Use(user, used, place);
                }
            }
        }
    }

    private static IEnumerable<TypeReference?> OperandTypes(object? operand) => operand switch
    {
        TypeReference type => [type],
        FieldReference field => [field.DeclaringType, field.FieldType],
        MethodReference method => [method.DeclaringType, method.ReturnType, .. method.Parameters.Select(p => p.ParameterType),
            .. method is GenericInstanceMethod generic ? generic.GenericArguments : []],
        _ => [],
    };

    private static IEnumerable<string> Rooms(IEnumerable<TypeReference?> types) =>
        types.OfType<TypeReference>().SelectMany(Parts).Select(RoomOf).OfType<string>();

    /// <summary>A type and the types that its generic arguments and elements name.</summary>
    private static IEnumerable<TypeReference> Parts(TypeReference type) => type switch
    {
        GenericInstanceType generic => generic.GenericArguments.SelectMany(Parts).Prepend(generic.ElementType),
        TypeSpecification specification => Parts(specification.ElementType),
        GenericParameter => [],
        _ => [type],
    };

    private static string? PlaceOf(SequencePoint point) =>
        point.IsHidden ? null : $"{Path.GetRelativePath(TestPaths.Repository, point.Document.Url)}:{point.StartLine}";
}
