using TorchSharp;
Espalier.Runtime.NativeLibraries.EnsureLoaded();
var a = torch.rand(2048,2048); 
for (int i=0;i<3;i++){ var sw=System.Diagnostics.Stopwatch.StartNew(); using var b=torch.mm(a,a); Console.WriteLine(17.18/sw.Elapsed.TotalSeconds + " GFLOP/s " + torch.get_num_threads()); }
