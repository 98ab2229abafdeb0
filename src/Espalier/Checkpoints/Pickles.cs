using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>Pickled checkpoints, which are refused: opening one runs whatever code it carries.</summary>
internal static class Pickles
{
    private static readonly string[] Extensions = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

    /// <summary>Whether a file name is one that pickled tensors come under.</summary>
    public static bool IsPickle(string path) => Extensions.Contains(Path.GetExtension(path).ToLowerInvariant());

    /// <summary>Throws for a pickle.</summary>
    /// <exception cref="EspalierException">The reason and the way out.</exception>
    public static void Refuse(string path)
    {
        if (IsPickle(path))
        {
            throw new EspalierException(Sentence(path));
        }
    }

    /// <summary>Why a pickle is not opened, and what to do instead.</summary>
    public static string Sentence(string path) =>
        $"{path} is a Python pickle, and opening a pickle can run any code it carries, so Espalier does not; "
        + "convert it once in Python with `safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')`, "
        + "or take a revision of the model that has *.safetensors files.";
}
