using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>What a model reads for one request, and what it is to predict.</summary>
/// <param name="Input">The tokens it reads: context and continuation without the last token.</param>
/// <param name="Targets">The continuation's tokens; the last <c>Targets.Length</c> positions of the input predict them.</param>
/// <param name="Cut">How many tokens of the context were cut off on the left.</param>
internal sealed record EncodedPair(int[] Input, int[] Targets, int Cut);

/// <summary>Turns context and continuation into tokens as the lm-evaluation-harness does.</summary>
internal static class PairEncoder
{
    /// <summary>Encodes a request.</summary>
    /// <remarks>
    /// White space at the context's end goes over to the continuation. The whole is encoded at once, and the continuation is what
    /// it has beyond as many tokens as the context alone has. An empty context is the model's beginning token, or its end token.
    /// </remarks>
    /// <param name="tokenizer">The model's tokeniser, with the special tokens that it puts around a text.</param>
    /// <param name="request">Context and continuation.</param>
    /// <param name="contextLength">The most tokens that the model reads; the context is cut on the left to fit.</param>
    /// <exception cref="EspalierException">When nothing is left to score, or the continuation alone is too long.</exception>
    public static EncodedPair Encode(Tokenizer tokenizer, LikelihoodRequest request, int contextLength)
    {
        string context = request.Context.TrimEnd();
        string continuation = request.Context[context.Length..] + request.Continuation;
        (int[] all, int before) = context.Length == 0 ? WithoutContext(tokenizer, continuation) : WithContext(tokenizer, context, continuation);
        int scored = all.Length - before;
        EspalierException.Require(before > 0 && scored > 0, $"The continuation \"{Short(request.Continuation)}\" has no token of its own after \"{Short(request.Context)}\": the tokeniser does not fit the task.");
        EspalierException.Require(scored <= contextLength, $"The continuation \"{Short(request.Continuation)}\" has {scored} tokens, more than the {contextLength} that the model reads; leave such questions out.");
        int cut = Math.Max(0, all.Length - 1 - contextLength);
        return new EncodedPair(all[cut..^1], all[before..], cut);
    }

    private static (int[] All, int Before) WithContext(Tokenizer tokenizer, string context, string continuation) =>
        ([.. tokenizer.Encode(context + continuation)], tokenizer.Encode(context).Count);

    private static (int[] All, int Before) WithoutContext(Tokenizer tokenizer, string continuation)
    {
        int prefix = tokenizer.BeginId ?? tokenizer.EndId
            ?? throw new EspalierException("The context is empty and the tokeniser has neither a beginning nor an end token to stand for it.");
        IReadOnlyList<int> ids = tokenizer.Encode(continuation, addSpecialTokens: false);
        return (ids.Count > 0 && ids[0] == prefix ? [.. ids] : [prefix, .. ids], 1);
    }

    private static string Short(string text) => text.Length <= 40 ? text : text[..40] + "…";
}
