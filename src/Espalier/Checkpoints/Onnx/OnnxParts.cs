namespace Espalier.Checkpoints.Onnx;

/// <summary>Reads the messages of an ONNX file that hold no tensor: operations, inputs and outputs.</summary>
internal static class OnnxParts
{
    /// <summary>One operation.</summary>
    public static OnnxNode ReadNode(ProtoCursor cursor)
    {
        (List<string> inputs, List<string> outputs, Dictionary<string, object> attributes, string name) = ([], [], [], "");
        while (cursor.Next(out int field, out int wire))
        {
            switch (field)
            {
                case 1:
                    inputs.Add(cursor.Text());
                    break;
                case 2:
                    outputs.Add(cursor.Text());
                    break;
                case 4:
                    name = cursor.Text();
                    break;
                case 5:
                    (string key, object value) = ReadAttribute(cursor.Message());
                    attributes[key] = value;
                    break;
                default:
                    cursor.Skip(wire);
                    break;
            }
        }

        return new OnnxNode(name, inputs, outputs, attributes);
    }

    private static (string Name, object Value) ReadAttribute(ProtoCursor cursor)
    {
        (string name, object value, List<long> list) = ("", 0L, []);
        Each(cursor, (c, field, wire) =>
        {
            switch (field)
            {
                case 1:
                    name = c.Text();
                    break;
                case 2:
                    value = c.Real();
                    break;
                case 3:
                    value = c.Number();
                    break;
                case 4:
                    value = c.Text();
                    break;
                case 8:
                    list.Add(c.Number());
                    break;
                default:
                    c.Skip(wire);
                    break;
            }
        });
        return (name, list.Count > 0 ? list.ToArray() : value);
    }

    /// <summary>One input or output with its axes.</summary>
    public static OnnxValue ReadValue(ProtoCursor cursor)
    {
        (string name, OnnxType type, List<OnnxAxis> axes) = ("", OnnxType.F32, []);
        Each(cursor, (value, field, wire) =>
        {
            switch (field)
            {
                case 1:
                    name = value.Text();
                    break;
                case 2:
                    // A value's type holds a tensor's type, which holds its element type and its shape.
                    Each(value.Message(), (kind, number, kindWire) =>
                    {
                        if (number == 1)
                        {
                            type = ReadTensorType(kind.Message(), axes);
                        }
                        else
                        {
                            kind.Skip(kindWire);
                        }
                    });
                    break;
                default:
                    value.Skip(wire);
                    break;
            }
        });
        return new OnnxValue(name, type, axes);
    }

    private static OnnxType ReadTensorType(ProtoCursor cursor, List<OnnxAxis> axes)
    {
        OnnxType type = OnnxType.F32;
        Each(cursor, (tensor, field, wire) =>
        {
            switch (field)
            {
                case 1:
                    type = (OnnxType)tensor.Number();
                    break;
                case 2:
                    Each(tensor.Message(), (shape, _, _) =>
                    {
                        OnnxAxis axis = "?";
                        Each(shape.Message(), (size, number, sizeWire) =>
                        {
                            switch (number)
                            {
                                case 1:
                                    axis = size.Number();
                                    break;
                                case 2:
                                    axis = size.Text();
                                    break;
                                default:
                                    size.Skip(sizeWire);
                                    break;
                            }
                        });
                        axes.Add(axis);
                    });
                    break;
                default:
                    tensor.Skip(wire);
                    break;
            }
        });
        return type;
    }

    /// <summary>Visits every field of a message: the message, the field's number, its wire type.</summary>
    public static void Each(ProtoCursor cursor, Action<ProtoCursor, int, int> field)
    {
        while (cursor.Next(out int number, out int wire))
        {
            field(cursor, number, wire);
        }
    }
}
