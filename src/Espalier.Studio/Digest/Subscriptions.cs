using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Runtime;
using MimeKit;

namespace Espalier.Studio.Digest;

/// <summary>How often news are sent.</summary>
public enum DigestPace
{
    /// <summary>As soon as there are any.</summary>
    AtOnce,

    /// <summary>Once a week, where there are any.</summary>
    Weekly,
}

/// <summary>An address that news go to.</summary>
/// <param name="Id">What links call it.</param>
/// <param name="Address">The e-mail address.</param>
/// <param name="Pace">How often.</param>
/// <param name="Confirmed">Whether its owner has confirmed it; before that nothing but the question is sent.</param>
/// <param name="Asked">When it was asked for.</param>
/// <param name="Last">Up to when it knows the news.</param>
internal sealed record Subscription(string Id, string Address, DigestPace Pace, bool Confirmed, DateTimeOffset Asked, DateTimeOffset Last);

/// <summary>Who reads the digest, kept in a file of the studio's folder; links are proved by a key that lies beside it.</summary>
internal sealed class Subscriptions(StudioOptions options, TimeProvider clock)
{
    private const int Most = 1_000;
    private static readonly TimeSpan Patience = TimeSpan.FromDays(3);

    private readonly Lock _lock = new();
    private readonly string _file = Path.Combine(options.Home, "studio", "digest.json"), _keyFile = Path.Combine(options.Home, "studio", "digest.key");
    private List<Subscription>? _all;
    private byte[]? _key;

    /// <summary>Those who have confirmed.</summary>
    public IReadOnlyList<Subscription> Confirmed()
    {
        lock (_lock)
        {
            return [.. Load().Where(s => s.Confirmed)];
        }
    }

    /// <summary>Takes an address up, unconfirmed.</summary>
    /// <returns>What is to be asked; null where the address is subscribed like this already.</returns>
    /// <exception cref="EspalierException">When it is no address, or there are too many.</exception>
    public Subscription? Ask(string address, DigestPace pace)
    {
        string plain = address.Trim();
        EspalierException.Require(plain.Length <= 254 && !plain.Any(char.IsControl) && MailboxAddress.TryParse(plain, out MailboxAddress? mailbox) && mailbox.Address == plain && plain.IndexOf('@') > 0 && plain.LastIndexOf('.') > plain.IndexOf('@'),
            "This is no e-mail address; write it as name@example.org.");
        lock (_lock)
        {
            List<Subscription> all = Load();
            all.RemoveAll(s => !s.Confirmed && clock.GetUtcNow() - s.Asked > Patience);
            Subscription? known = all.FirstOrDefault(s => s.Address.Equals(plain, StringComparison.OrdinalIgnoreCase));
            if (known is { Confirmed: true })
            {
                return null;
            }

            EspalierException.Require(known is not null || all.Count < Most, "The digest has as many readers as it takes.");
            DateTimeOffset now = clock.GetUtcNow();

            // Asked again within minutes, the first question still stands: nobody's letter box is filled from here.
            if (known is not null && now - known.Asked < TimeSpan.FromMinutes(5))
            {
                return null;
            }

            all.RemoveAll(s => s.Id == known?.Id);
            var fresh = new Subscription(known?.Id ?? Guid.NewGuid().ToString("N"), plain, pace, false, now, now);
            all.Add(fresh);
            Save(all);
            return fresh;
        }
    }

    /// <summary>Confirms an address.</summary>
    /// <returns>Whether the link was right and not too old.</returns>
    public bool Confirm(string id, string token)
    {
        lock (_lock)
        {
            List<Subscription> all = Load();
            int place = all.FindIndex(s => s.Id == id);
            if (place < 0 || !Proves(id, "confirm", token) || (!all[place].Confirmed && clock.GetUtcNow() - all[place].Asked > Patience))
            {
                return false;
            }

            all[place] = all[place] with { Confirmed = true, Last = all[place].Confirmed ? all[place].Last : clock.GetUtcNow() };
            Save(all);
            return true;
        }
    }

    /// <summary>Takes an address out, with everything that is known of it.</summary>
    /// <returns>Whether the link was right; an address that is out already counts as out.</returns>
    public bool Leave(string id, string token)
    {
        if (!Proves(id, "leave", token))
        {
            return false;
        }

        lock (_lock)
        {
            List<Subscription> all = Load();
            if (all.RemoveAll(s => s.Id == id) > 0)
            {
                Save(all);
            }

            return true;
        }
    }

    /// <summary>Notes up to when an address knows the news.</summary>
    public void Sent(string id, DateTimeOffset until)
    {
        lock (_lock)
        {
            List<Subscription> all = Load();
            int place = all.FindIndex(s => s.Id == id);
            if (place >= 0)
            {
                all[place] = all[place] with { Last = until };
                Save(all);
            }
        }
    }

    /// <summary>The word that proves a link of a mail.</summary>
    public string Token(string id, string purpose) => Convert.ToHexStringLower(HMACSHA256.HashData(Key(), Encoding.UTF8.GetBytes($"{purpose}:{id}")))[..40];

    private bool Proves(string id, string purpose, string token) =>
        CryptographicOperations.FixedTimeEquals(Encoding.UTF8.GetBytes(Token(id, purpose)), Encoding.UTF8.GetBytes(token));

    private byte[] Key()
    {
        lock (_lock)
        {
            if (_key is not null)
            {
                return _key;
            }

            if (!File.Exists(_keyFile))
            {
                Directory.CreateDirectory(Path.GetDirectoryName(_keyFile)!);
                using FileStream made = OperatingSystem.IsWindows()
                    ? new FileStream(_keyFile, FileMode.CreateNew)
                    : new FileStream(_keyFile, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite });
                made.Write(RandomNumberGenerator.GetBytes(32));
            }

            return _key = File.ReadAllBytes(_keyFile);
        }
    }

    private List<Subscription> Load()
    {
        if (_all is null)
        {
            try
            {
                _all = File.Exists(_file) ? JsonSerializer.Deserialize<List<Subscription>>(File.ReadAllText(_file)) ?? [] : [];
            }
            catch (JsonException fault)
            {
                throw new EspalierException($"The list of the digest's readers ({_file}) is damaged; mend or remove it.", fault);
            }
        }

        return _all;
    }

    private void Save(List<Subscription> all)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_file)!);
        AtomicFile.WriteText(_file, JsonSerializer.Serialize(all));
        _all = all;
    }
}
