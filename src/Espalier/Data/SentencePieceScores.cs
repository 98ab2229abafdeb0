using Google.Protobuf;

namespace Espalier.Data;

/// <summary>Reads the pieces of a SentencePiece model: the scores are in the file, but the library that encodes keeps them to itself.</summary>
internal static class SentencePieceScores
{
    private const int PieceField = 1, TrainerField = 2, ModelTypeField = 3, UnigramModel = 1;

    /// <summary>Text, score and kind of every piece, by id; whether the model is a Unigram one.</summary>
    public static (List<(string Text, float Score, TokenKind Kind)> Pieces, bool Unigram) Read(string path)
    {
        var pieces = new List<(string, float, TokenKind)>();
        bool unigram = true; // the format's default
        using FileStream stream = File.OpenRead(path);
        using var input = new CodedInputStream(stream);
        while (input.ReadTag() is var tag && tag != 0)
        {
            switch (WireFormat.GetTagFieldNumber(tag))
            {
                case PieceField:
                    pieces.Add(Piece(input.ReadBytes().CreateCodedInput()));
                    break;
                case TrainerField:
                    unigram = IsUnigram(input.ReadBytes().CreateCodedInput());
                    break;
                default:
                    input.SkipLastField();
                    break;
            }
        }

        return (pieces, unigram);
    }

    private static (string, float, TokenKind) Piece(CodedInputStream input)
    {
        (string text, float score, TokenKind kind) = ("", 0, TokenKind.Normal);
        while (input.ReadTag() is var tag && tag != 0)
        {
            switch (WireFormat.GetTagFieldNumber(tag))
            {
                case 1: text = input.ReadString(); break;
                case 2: score = input.ReadFloat(); break;
                case 3: kind = (TokenKind)input.ReadEnum(); break;
                default: input.SkipLastField(); break;
            }
        }

        return (text, score, kind);
    }

    private static bool IsUnigram(CodedInputStream input)
    {
        int type = UnigramModel;
        while (input.ReadTag() is var tag && tag != 0)
        {
            if (WireFormat.GetTagFieldNumber(tag) == ModelTypeField)
            {
                type = input.ReadEnum();
            }
            else
            {
                input.SkipLastField();
            }
        }

        return type == UnigramModel;
    }
}
