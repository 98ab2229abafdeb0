using System.Text;
using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Tests.Checkpoints;

/// <summary>Files that lie. Each gets one sentence that names the file and says what is wrong.</summary>
public sealed class MalformedSafeTensorsTests
{
    private static readonly byte[] BadUtf8 = [.. "{\"a"u8, 0xff, 0xfe, .. "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"u8];

    private static readonly Dictionary<string, (byte[] File, string Says)> Files = new()
    {
        ["empty file"] = ([], "fewer than the 8"),
        ["seven bytes"] = (new byte[7], "fewer than the 8"),
        ["header of no bytes"] = (new byte[8], "does not begin with '{'"),
        ["header longer than the file"] = (RawSafeTensors.Build("{}"u8.ToArray(), 0, 1000), "cut short"),
        ["header longer than 100 MB"] = (RawSafeTensors.Build("{}"u8.ToArray(), 0, 100_000_001), "100 MB"),
        ["header length with the top bit"] = (RawSafeTensors.Build("{}"u8.ToArray(), 0, -1), "100 MB"),
        ["header length near 2^63"] = (RawSafeTensors.Build("{}"u8.ToArray(), 0, long.MaxValue - 4), "100 MB"),
        ["not JSON"] = (RawSafeTensors.Build("{nonsense}", 0), "not valid JSON"),
        ["spaces before the brace"] = (RawSafeTensors.Build("  {}", 0), "does not begin with '{'"),
        ["a list"] = (RawSafeTensors.Build("[]", 0), "does not begin with '{'"),
        ["unfinished object"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\"", 0), "not valid JSON"),
        ["a second document behind the first"] = (RawSafeTensors.Build("{}{}", 0), "not valid JSON"),
        ["a comment"] = (RawSafeTensors.Build("{/*x*/}", 0), "not valid JSON"),
        ["very deep"] = (RawSafeTensors.Build("{\"a\":{\"x\":" + new string('[', 500) + new string(']', 500) + "}}", 0), "not valid JSON"),
        ["bytes that are no UTF-8"] = (RawSafeTensors.Build(BadUtf8, 1), "not valid JSON in UTF-8"),
        ["half a surrogate pair"] = (RawSafeTensors.Build("{\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "not valid JSON"),
        ["the same name twice"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2), "'a' twice"),
        ["the same name twice, once escaped"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2), "'a' twice"),
        ["metadata twice"] = (RawSafeTensors.Build("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "'__metadata__' twice"),
        ["a metadata key twice"] = (RawSafeTensors.Build("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0), "'k' twice"),
        ["metadata that is a number"] = (RawSafeTensors.Build("{\"__metadata__\":{\"k\":1}}", 0), "'k' is not a string"),
        ["metadata that is an object"] = (RawSafeTensors.Build("{\"__metadata__\":{\"k\":{}}}", 0), "'k' is not a string"),
        ["metadata that is a string"] = (RawSafeTensors.Build("{\"__metadata__\":\"x\"}", 0), "not an object"),
        ["a tensor that is null"] = (RawSafeTensors.Build("{\"a\":null}", 0), "not an object"),
        ["no dtype"] = (RawSafeTensors.Build("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "no dtype"),
        ["no shape"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1), "no shape"),
        ["no offsets"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1), "no data_offsets"),
        ["two shapes"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "two entries 'shape'"),
        ["unknown dtype"] = (Tensor("F31", "[1]", "[0,4]", 4), "unknown dtype 'F31'"),
        ["dtype in small letters"] = (Tensor("f32", "[1]", "[0,4]", 4), "unknown dtype 'f32'"),
        ["dtype that is a number"] = (RawSafeTensors.Build("{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "not a string"),
        ["shape that is a number"] = (Tensor("U8", "1", "[0,1]", 1), "not a list"),
        ["a dimension that is a string"] = (Tensor("U8", "[\"1\"]", "[0,1]", 1), "whole number"),
        ["a fractional dimension"] = (Tensor("U8", "[1.5]", "[0,1]", 1), "whole number"),
        ["a dimension beyond 64 bits"] = (Tensor("U8", "[18446744073709551616]", "[0,1]", 1), "whole number"),
        ["a negative dimension"] = (Tensor("U8", "[-1]", "[0,1]", 1), "negative"),
        ["two negative dimensions"] = (Tensor("U8", "[-1,-1]", "[0,1]", 1), "negative"),
        ["a shape that overflows to 0"] = (Tensor("F32", "[4294967296,4294967296]", "[0,0]", 0), "overflows"),
        ["an overflow behind a zero"] = (Tensor("F32", "[0,4611686018427387904,4]", "[0,0]", 0), "overflows"),
        ["bytes that overflow"] = (Tensor("F64", "[4611686018427387904]", "[0,0]", 0), "overflows"),
        ["one offset"] = (Tensor("U8", "[1]", "[1]", 1), "not a begin and an end"),
        ["three offsets"] = (Tensor("U8", "[1]", "[0,1,2]", 1), "not a begin and an end"),
        ["offsets the wrong way round"] = (Tensor("U8", "[1]", "[1,0]", 1), "not a begin and an end"),
        ["a negative offset"] = (Tensor("U8", "[1]", "[-1,0]", 1), "not a begin and an end"),
        ["span smaller than the shape"] = (Tensor("F32", "[2]", "[0,4]", 4), "needs 8 bytes"),
        ["span larger than the shape"] = (Tensor("F32", "[1]", "[0,8]", 8), "needs 4 bytes"),
        ["beyond the end"] = (Tensor("F32", "[2]", "[0,8]", 7), "beyond the end"),
        ["far beyond the end"] = (Tensor("U8", "[1]", "[9223372036854775806,9223372036854775807]", 1), "beyond the end"),
        ["a terabyte that is not there"] = (Tensor("U8", "[1099511627776]", "[0,1099511627776]", 4), "beyond the end"),
        ["a hole at the start"] = (Tensor("U8", "[1]", "[1,2]", 2), "hole"),
        ["a hole between"] = (Two("[0,1]", "[2,3]", 3), "hole"),
        ["an overlap"] = (Two("[0,1]", "[0,1]", 1), "overlaps"),
        ["bytes behind the last tensor"] = (Tensor("U8", "[1]", "[0,1]", 5), "4 bytes at its end"),
        ["data and no tensor"] = (RawSafeTensors.Build("{}", 3), "3 bytes at its end"),
        ["spaces of another kind behind the brace"] = (RawSafeTensors.Build("{}\0\0", 0), "not valid JSON"),
    };

    public static TheoryData<string> Names => [.. Files.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void A_file_that_lies_gets_a_sentence(string name)
    {
        (byte[] content, string says) = Files[name];
        using var folder = new TemporaryFolder();
        string path = folder["lie.safetensors"];
        File.WriteAllBytes(path, content);
        string message = Should.Throw<EspalierException>(() => SafeTensorsFile.Open(path).Dispose()).Message;
        message.ShouldContain(says);
        message.ShouldStartWith(path);
        message.ShouldEndWith(".");
        Encoding.UTF8.GetByteCount(message).ShouldBeLessThan(1000);
    }

    private static byte[] Tensor(string dtype, string shape, string offsets, int dataBytes) =>
        RawSafeTensors.Build($"{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}", dataBytes);

    private static byte[] Two(string first, string second, int dataBytes) =>
        RawSafeTensors.Build(
            $"{{\"a\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{first}}},\"b\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{second}}}}}",
            dataBytes);
}
