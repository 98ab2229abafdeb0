using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Tests.Checkpoints;

public sealed class HubTests
{
    [Fact]
    public async Task The_shared_cache_resolves_offline()
    {
        string cache = TestPaths.RequireShared("hub");
        HubOptions options = HubOptions.From(name => name switch { "HF_HUB_CACHE" => cache, "HF_HUB_OFFLINE" => "1", _ => null });
        string model = await Hub.ResolveAsync("espalier/imdb-llama-2.8m", RepositoryKind.Model, () => options, SilentProgress.Instance, null, default);
        using (var checkpoint = Checkpoint.Open(model))
        {
            checkpoint.Contains("model.embed_tokens.weight").ShouldBeTrue();
        }

        string data = await Hub.ResolveAsync("stanfordnlp/imdb", RepositoryKind.Dataset, () => options, SilentProgress.Instance, null, default);
        Directory.GetFiles(Path.Combine(data, "plain_text"), "*.parquet").Length.ShouldBe(2);
    }

    [Fact]
    public void A_folder_or_file_goes_before_an_id_and_needs_no_hub()
    {
        using var folder = new TemporaryFolder();
        Hub.Resolve(folder.Path, SilentProgress.Instance).ShouldBe(folder.Path);
        File.WriteAllText(folder["m.safetensors"], "x");
        Hub.Resolve(folder["m.safetensors"], SilentProgress.Instance).ShouldBe(folder["m.safetensors"]);
        Hub.ResolveDataset(folder.Path, SilentProgress.Instance).ShouldBe(folder.Path);
    }

    [Theory]
    [InlineData("./nowhere")]
    [InlineData("/nowhere/at/all")]
    [InlineData("~/nowhere-at-all")]
    [InlineData("a\\b")]
    [InlineData("org/name/")]
    [InlineData("missing.safetensors")]
    [InlineData("")]
    public async Task What_looks_like_a_path_is_not_asked_of_the_hub(string text)
    {
        Func<HubOptions> never = () => throw new InvalidOperationException("the hub was asked");
        string message = (await Should.ThrowAsync<EspalierException>(
            () => Hub.ResolveAsync(text, RepositoryKind.Model, never, SilentProgress.Instance, null, default))).Message;
        message.ShouldContain("no folder or file");
    }

    [Theory]
    [InlineData("org/name", "org/name", "main", "models--org--name")]
    [InlineData("gpt2", "gpt2", "main", "models--gpt2")]
    [InlineData("meta-llama/Llama-3.2-1B@refs/pr/7", "meta-llama/Llama-3.2-1B", "refs/pr/7", "models--meta-llama--Llama-3.2-1B")]
    [InlineData("a/b@v1.0", "a/b", "v1.0", "models--a--b")]
    public void Ids_are_read(string text, string name, string revision, string folderName)
    {
        RepositoryId id = RepositoryId.Parse(text, RepositoryKind.Model);
        (id.Name, id.Revision, id.FolderName).ShouldBe((name, revision, folderName));
    }

    [Theory]
    [InlineData("a/b/c")]
    [InlineData("a b/c")]
    [InlineData("a/..")]
    [InlineData("-a/b")]
    [InlineData("a--b/c")]
    [InlineData("a/b@")]
    [InlineData("a/b@../../x")]
    [InlineData("a/b@x//y")]
    [InlineData("a/b@/x")]
    [InlineData("a/b\n")]
    [InlineData("a/b?x=1")]
    public void What_is_no_id_gets_a_sentence(string text) =>
        Should.Throw<EspalierException>(() => RepositoryId.Parse(text, RepositoryKind.Model)).Message.ShouldEndWith(".");

    [Fact]
    public void The_environment_is_read_as_other_tools_read_it()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["token"], " from-file\n");
        HubOptions From(params (string Name, string Value)[] variables) => HubOptions.From(name => variables.FirstOrDefault(v => v.Name == name).Value);

        HubOptions home = From(("HF_HOME", folder.Path));
        (home.CacheFolder, home.Token, home.Offline, home.Endpoint).ShouldBe((folder["hub"], "from-file", false, HubOptions.DefaultEndpoint));
        From(("HF_HOME", folder.Path), ("HF_HUB_CACHE", folder["other"])).CacheFolder.ShouldBe(folder["other"]);
        From(("HF_HOME", folder.Path), ("HF_TOKEN", "named")).Token.ShouldBe("named");
        From(("HF_HOME", folder["none"]), ("HF_TOKEN_PATH", folder["token"])).Token.ShouldBe("from-file");
        From(("HF_HOME", folder["none"])).Token.ShouldBeNull();
        From(("XDG_CACHE_HOME", folder.Path)).CacheFolder.ShouldBe(Path.Combine(folder.Path, "huggingface", "hub"));
        From(("HF_HUB_OFFLINE", "yes")).Offline.ShouldBeTrue();
        From(("HF_HUB_OFFLINE", "0")).Offline.ShouldBeFalse();
        From(("HF_ENDPOINT", "https://mirror.example/hf/")).Endpoint.ShouldBe("https://mirror.example/hf");
        Should.Throw<EspalierException>(() => From(("HF_ENDPOINT", "mirror"))).Message.ShouldContain("HF_ENDPOINT");
        From(("HF_HOME", folder.Path)).ToString().ShouldNotContain("from-file");
    }
}
